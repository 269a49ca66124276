"""Tables, figures and the HTML page of a study, drawn from the values of `analysis`."""

from l2kd_ray.report.headline import headline
from l2kd_ray.report.terminal import terminal_table
from l2kd_ray.report.write import write_report

__all__ = ["headline", "terminal_table", "write_report"]
