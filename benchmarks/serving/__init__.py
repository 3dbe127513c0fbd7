"""A bundle behind HTTP, compared with the library called directly and with other servers, and under overload.

In: a bundle and texts. ``load`` sends requests, ``peer_*`` are the other servers, ``run`` is the command.
Out: tables, printed or written into docs/serving.md.
"""
