"""Makes what isn't the library importable wherever one works: pipeline, stages, flows, studies, arena.

Their names are too common for site-packages, so that the wheel carries them in this folder. Once this package is
imported they are found by their own names, and by names below it, such as `diffalign.clone.flows.align`.
"""

import sys

from diffalign.core.home import ROOT

__path__ = [str(ROOT)]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))
