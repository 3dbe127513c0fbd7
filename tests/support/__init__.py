"""What tests share: tiny models, manifests, a Hub in this process, and helpers that compare by hand."""
