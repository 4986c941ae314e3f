//! All tests are modules of one program, in which clocks and chance are those of a schedule once there is one.

mod chance_and_time;
mod memory_store_conforms;
mod schedules;
