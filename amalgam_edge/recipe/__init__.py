"""What a build is asked to do: one frozen object with a section for each stage, validated.

In: YAML, options of the command line, or keyword arguments. Out: a :class:`~amalgam_edge.recipe.recipe.Recipe`, whose
sections are handed to the stages one by one.
"""
