//! The program as its users run it: one program, since linking one is quicker than linking many.

mod certificates_are_trusted_only_on_purpose;
mod changes_of_others_are_not_lost;
mod commands_work_without_a_cloud;
mod descriptions_are_published;
mod failures_end_as_the_contract_says;
mod images_are_described_and_signed;
mod images_are_uploaded_and_published;
mod logins_are_kept;
mod outputs_are_those_of_the_contract;
mod passwords_are_asked_for_once;
mod support;
mod what_create_image_removes;
