"""Ray: sweeps by Tune, the stage pool, stages run as tasks or by Ray Train."""
