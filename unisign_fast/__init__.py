"""Uni-Sign (ICLR 2025) as a training system: model, training, evaluation. Imports `kernels` and `pipelines`."""
