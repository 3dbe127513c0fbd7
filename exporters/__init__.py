"""ONNX files of students and teachers, and the choice of those that are good enough to ship.

In: a torch model in evaluation mode, and texts for calibration and for the quality gate. Out: ONNX files, and the
manifest's account of them. ``student_export``, ``static_export`` and ``teacher_export`` are the ways in; they use
``tracing`` (torch to ONNX), ``rewrites`` (a faster graph with the same answers), ``quantization`` and ``selection``.
"""
