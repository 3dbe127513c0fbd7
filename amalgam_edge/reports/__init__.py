"""What people read: tables, plots, HTML pages, the model card.

In: manifests and results. Out: text.
"""
