# Tasks for development; `just` lists them. Each works without `just`, too.

dev := "uv run --group dev"

_default:
    @just --list

# Everything that has to pass: lint, types, imports, tests
check:
    bash .ci/run

# The test suite, or a part of it: just test tests/loop -k claim
test *arguments:
    {{dev}} pytest {{arguments}}

# The tests that take minutes
long:
    {{dev}} pytest -m long

# Kill workers, Temporal and PostgreSQL under 300 runs and look for what is lost or doubled: just chaos --seed 7
chaos *arguments:
    PYTHONPATH=tests {{dev}} python -m chaos {{arguments}}

# All proofs of docs/reliability.md one after the other, and a table of what came of them; or some: just prove chaos
prove *proofs:
    PYTHONPATH=tests {{dev}} python -m proofs {{proofs}}

# The shipped code on a virtual clock, under every schedule of one and two faults and 20,000 random ones: just simulate --jobs 2
simulate *arguments:
    PYTHONPATH=tests {{dev}} python -m simulation {{arguments}}

# Take each guard of the commit protocol away in turn: a test has to fail (docs/reliability.md)
guards *arguments:
    {{dev}} pytest -m "long or not long" tests/guards {{arguments}}

# What a run costs over a bare Temporal workflow; see benchmarks/README.md: just bench --quick
bench *arguments:
    {{dev}} python benchmarks/overhead.py {{arguments}}

# What a commit and a load cost in each store; see benchmarks/README.md: just bench-stores --quick
bench-stores *arguments:
    {{dev}} python benchmarks/stores.py {{arguments}}

# What it costs to read a reply while it is made, by each way; see benchmarks/README.md: just bench-streaming
bench-streaming *arguments:
    {{dev}} python benchmarks/streaming.py {{arguments}}

# Put the code into its usual form
format:
    {{dev}} ruff check --fix
    {{dev}} ruff format
