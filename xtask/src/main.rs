//! The commands of the project: demo, test, bench.

fn main() {}
