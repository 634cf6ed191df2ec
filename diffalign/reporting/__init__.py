"""The report: charts, grids, tables and templates."""
