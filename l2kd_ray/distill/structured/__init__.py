"""The tensor core of Structural KD (Wang et al. 2021): pure functions on whole batches, exact.

- `token`, `chain`, `spans`, `arcs`, `trees`, `eisner`: the factorisations, alike (`structure`)
- `second_order`: a parsing teacher with mean-field marginals
- `labelled`: arcs with relations; relative labels, which spell them a word at a time
- `projections`: the six cases, from a teacher to the student's substructures
- `objective`: equations (1) and (2), temperature, annealing
- `baselines`: token KD, posterior KD, Top-K, Top-WK
- `cases`: all of them by name
- `packing`: scores without padding, as they are stored
- `bioes`, `spanning_tree`: the tags of spans; maximum spanning trees
"""
