//! All tests are modules of one program, in which clocks, chance and writes to disk are those of a schedule once there is one.

mod chance_and_time;
mod disk;
mod memory_store_conforms;
mod schedules;
