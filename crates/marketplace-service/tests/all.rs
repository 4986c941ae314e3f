//! The Marketplace as a service, over a real database and a real mail server: one program, since linking one is quicker than linking many.

mod catalogues_move_as_files;
mod endorsers_are_reminded;
mod endorsers_have_accounts;
mod entries_come_by_upload_and_confirmation;
mod nobody_uses_up_what_others_need;
mod others_are_followed;
mod support;
