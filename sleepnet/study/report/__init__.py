"""A study's report from outcomes alone: its tables and pictures, and the files and the page made of them."""
from sleepnet.study.report.files import markdown, markdown_table, show, write

__all__ = ["markdown", "markdown_table", "show", "write"]
