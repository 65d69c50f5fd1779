"""Whether workers still move: values, the judge, the report."""
