"""Fitting a classifier to supervision, on one process or on several that share each batch.

``torchrun --nproc-per-node 2 -m amalgam_edge.training recipe.yaml`` builds what the recipe says, and trains on both.
Nothing is imported here, so that the program quiets libraries before they come.
"""
