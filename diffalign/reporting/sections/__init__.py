"""The sections of the report, a file each, in the order of `page.SECTIONS`; each has its template of the same name."""
