"""Everything that one build needs, validated.

In: YAML or keyword arguments. Out: a frozen Recipe.
"""
