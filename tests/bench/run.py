"Run the benchmarks of this folder one after the other; names as arguments choose some: `run.py surface`."

import importlib.util
import sys
from pathlib import Path

here = Path(__file__).parent
of_their_own = {'bench_costs.py'}  # make bench-models: minutes for every network of the papers
for path in sorted(p for p in here.glob('bench_*.py') if p.name not in of_their_own):
    name = path.stem.removeprefix('bench_')
    if sys.argv[1:] and name not in sys.argv[1:]:
        continue
    print(f'\n## {name}', flush=True)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.main()
