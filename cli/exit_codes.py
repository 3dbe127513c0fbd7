"""The exit statuses of ``amalgam-edge``, besides 0 for success."""

PROBLEM_FOUND = 1  # doctor or scores verify found something wrong
USER_MISTAKE = 2  # one line on standard error says what to do
LIMIT_MISSED = 3  # the result is there, but misses a limit that was asked for
INTERRUPTED = 130  # Ctrl-C: 128 and the number of SIGINT, as shells have it
TERMINATED = 143  # the same of SIGTERM
