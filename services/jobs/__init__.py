"""Jobs that outlive their request, their process and the machine's power: accepted once, never forgotten.

`folders` keeps what came and what was made, `line` (DBOS) who is next, `slots` which worker lives, `runner` does the work of one,
and `process` holds them together. What the routes need of all this is in `services.tasks`.
"""
