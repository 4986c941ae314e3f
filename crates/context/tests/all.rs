//! What guests are given: one program, since linking one is quicker than linking many.

mod guests_read_the_files;
mod media_are_read_by_the_common_tools;
