"""Runs every benchmark and rewrites the tables in benchmarks/README.md.

    python benchmarks/run_all.py [--only NAME ...] [--out DIR] [--readme FILE] [--smoke]

Each runs in a separate process and writes DIR/NAME.json. With --only, the results of the others are those that an
earlier call wrote to the same DIR. The README is rewritten once all results exist; under --smoke only if --readme names
one. The benchmarks in LONGER take minutes more and run only if --only names them; their results in DIR are shown too.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from render import rewrite

HERE = Path(__file__).resolve().parent
NAMES = ("layer", "step", "round", "allocation", "payload", "secure_sums", "quickstart")
LONGER = ("grouping_many", "peers", "private_step")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks/run_all.py")
    parser.add_argument("--only", nargs="+", choices=(*NAMES, *LONGER), default=NAMES)
    parser.add_argument("--out", type=Path, help="folder for the JSON files; a temporary one unless given")
    parser.add_argument("--readme", type=Path, help="benchmarks/README.md unless given")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes: do they run")
    arguments = parser.parse_args(argv)
    out = arguments.out or Path(tempfile.mkdtemp(prefix="fedlease-bench-"))
    out.mkdir(parents=True, exist_ok=True)
    readme = arguments.readme or (None if arguments.smoke else HERE / "README.md")
    started = time.perf_counter()
    failed = []
    for name in arguments.only:
        print(f"== {name}, {time.perf_counter() - started:.0f} s so far", flush=True)
        file = out / f"{name}.json"
        file.unlink(missing_ok=True)
        words = [sys.executable, str(HERE / f"{name}.py"), "--json", str(file), *["--smoke"] * arguments.smoke]
        if subprocess.run(words).returncode != 0:
            failed.append(name)
    print(f"{(time.perf_counter() - started) / 60:.1f} minutes, results in {out}")
    if failed:
        print(f"failed: {', '.join(failed)}; the README stays as it is", file=sys.stderr)
        return 1
    results = [json.loads((out / f"{n}.json").read_text()) for n in (*NAMES, *LONGER) if (out / f"{n}.json").is_file()]
    missing = [name for name in NAMES if name not in {result["name"] for result in results}]
    if missing or any(result["smoke"] != arguments.smoke for result in results):
        print(f"the README stays as it is: {', '.join(missing) or 'smoke and real results'} in {out}")
    elif readme is not None:
        rewrite(readme, results)
        print(f"rewrote {readme}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
