"""The fault matrix: a relaunch is broken on purpose, again and again, and the world is judged afterwards.

``python -m tests.faults --runs N --seed S [--only FAULT] [--json FILE]``. Real processes on real ports: the
simulator as the server, the real ``sgl-wizard`` command line, the real detached runner. Nothing here believes
the wizard: what runs, what serves and who was signalled is read from /proc and over HTTP by world.py.

| module | what |
|---|---|
| table.py, faults_*.py | the faults, as named entries |
| ground.py | the card, state folder, target, decoys and commands of one run |
| watch.py | the journal, read from outside, to find the moment for a fault |
| world.py | what really runs |
| judge.py | what was promised against what is |
| command.py | the command: one line a run, the totals at the end |
| decoy.py, squatter.py, fake/, hook/ | what runs beside the target, or inside the runner |
"""
