//! The front doors, over real connections: one program, since linking one is quicker than linking many.

mod certificates_log_in;
mod cimi_requests_get_the_answers_of_the_specification;
mod clients_ask_only_for_what_changed;
mod collections_are_followed;
mod every_route_has_a_rule_for_everybody;
mod every_row_of_the_marketplace_s_contract_is_answered;
mod people_log_in_by_a_browser;
mod people_log_in_by_a_provider;
mod people_use_pages_in_a_real_browser;
mod people_use_the_marketplace_in_a_real_browser;
mod rude_clients_harm_only_themselves;
mod streams_flow_no_faster_than_they_are_read;
mod support;
mod the_marketplace_is_asked_as_stratuslab_s_clients_do;
mod xml_says_what_json_says;
