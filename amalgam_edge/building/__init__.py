"""From teachers and texts to a bundle: the steps of a build, and what they share.

In: a :class:`~amalgam_edge.recipe.Recipe`. Out: a bundle's folder and its manifest.
"""
