"""Behind aot_tpu.py: what a chip can do (`chips`), what its compiler says (`compiler`), what a compiled program holds (`hlo`, read from `text`)."""
