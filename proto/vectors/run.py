"""Runs a verifier of yours over every vector, and says where it judges otherwise.

usage: run.py [--output json] [--under FOLDER] COMMAND [ARG …]

COMMAND is started once for each vector, in an empty folder: name files by absolute paths. It reads the vector on standard input, a JSON object with one of `delivery`,
`chain`, `hello` and `reputation` (README.md), without what is expected of it, and writes one word: `accept`, `redelivery`, or the code of
docs/refusals.md. Whatever it writes to standard error is shown when its word is wrong. It has 20 seconds.

exit code: 0 all as they say, 1 some judged otherwise, 64 wrong usage
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).parent
SECONDS = 20
HIDDEN = ("says", "clause", "expect")


def judge(command: list, path: Path) -> dict:
    vector = json.loads(path.read_text())
    asked = json.dumps({name: value for name, value in vector.items() if name not in HIDDEN})
    name, expected = str(path.relative_to(HERE)), vector["expect"]
    found = {"vector": name, "says": vector["says"], "clause": vector["clause"], "expected": expected}
    with tempfile.TemporaryDirectory() as folder:
        try:
            said = subprocess.run(command, input=asked, capture_output=True, text=True, timeout=SECONDS, cwd=folder)
            judged, reason = said.stdout.strip(), said.stderr.strip()
        except subprocess.TimeoutExpired:
            judged, reason = "", f"it said nothing for {SECONDS} s"
        except OSError as error:
            judged, reason = "", f"it could not be started: {error}"
    return found | {"judged": judged[:64], "agrees": judged == expected, "reason": reason[-500:]}


def main() -> None:
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("--output", choices=["text", "json"], default="text")
    parser.add_argument("--under", default=".", metavar="FOLDER")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    as_json, command = options.output == "json", options.command
    paths = sorted((HERE / options.under).rglob("*.json"))
    if command and "/" in command[0]:
        # It runs elsewhere.
        command[0] = os.path.abspath(command[0])
    if command and shutil.which(command[0]) is None:
        print(f"{command[0]}: no such program", file=sys.stderr)
        sys.exit(64)
    if not command or not paths:
        print(__doc__.strip() if not command else f"there are no vectors under {options.under}", file=sys.stderr)
        sys.exit(64)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = list(pool.map(lambda path: judge(command, path), paths))
    wrong = [result for result in results if not result["agrees"]]
    if as_json:
        print(json.dumps({"vectors": len(results), "wrong": wrong}, indent=1))
    else:
        for result in wrong:
            print(f"{result['vector']}: `{result['judged']}`, and it is `{result['expected']}`: {result['says']} (protocol.md {result['clause']})")
            if result["reason"]:
                print(f"    {result['reason']}")
        print(f"{len(results)} vectors, {len(wrong)} judged otherwise")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
