"""The one place that names the version; read by setup.cfg and written into every result."""

__version__ = "0.1.0"
