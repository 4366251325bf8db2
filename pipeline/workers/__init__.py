"""A pool of worker processes for Beam's portable runners, in which a worker may die and the job goes on."""
