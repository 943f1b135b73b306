"""hpcscale: does the way we choose data change the scaling law of continued pretraining?"""

__version__ = "0.1.0"
