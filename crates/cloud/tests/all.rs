//! The rules as callers meet them: one program, since linking one is quicker than linking many.

mod addresses_and_images_of_volumes_are_kept;
mod bare_cloud;
mod everybody_sees_only_what_is_theirs;
mod images_come_and_go_by_name;
mod jobs_are_stopped;
mod jobs_end_whatever_happens;
mod large_lists_are_as_small_ones;
mod machines_do_what_they_offer;
mod members_of_a_group_share;
mod nobody_uses_up_what_is_everybodys;
mod nothing_slips_between_check_and_write;
mod owners_of_certificates_come_from_files;
mod people_come_by_registration;
mod quotas_hold_whoever_counts;
mod services_are_configured_by_documents;
mod several_resources_are_one_system;
mod support;
mod the_cloud_says_how_well_it_is;
mod tokens_are_what_programs_log_in_with;
mod users_come_and_go;
mod users_come_from_files;
mod what_cannot_be_done_is_refused_by_name;
mod what_changes_is_told_to_who_watches;
mod what_is_shown_can_be_sent_back;
mod what_is_shown_is_true;
