//! Documents and signatures as outsiders make and read them: one program, since linking one is quicker than linking many.

mod documents_are_read_and_written;
mod endorsers_sign;
mod mutated_documents_harm_nobody;
mod only_what_was_signed_is_believed;
mod sites_choose_what_they_accept;
mod support;
