"""What tasks are made of, and what is done with them all.

`philox` words, `draws` without repetition, `splits` by what an instance is, `arguments` checked; `check` and `stats` behind the commands (`screen`);
`shards`, `tfds_builder` and `export_folder` behind `sleepnet.tasks.exported`. The contract is `sleepnet.tasks.base`.
"""
