//! Networks, with real bridges, rules and DHCP: one program, since linking one is quicker than linking many.

mod a_guest_cannot_pretend;
mod a_guest_cannot_pretend_by_ipv6;
mod a_guest_gets_its_address_and_name;
mod dnsmasq_outlives_the_daemon_and_comes_back;
mod guests_have_ipv6;
mod guests_reach_the_world_and_not_the_host;
mod machines_are_on_the_sites_ethernet;
mod one_network_over_several_hosts;
mod one_network_over_several_hosts_by_ipv6;
mod plugging_is_quick_and_leaves_nothing;
mod security_groups_let_in_what_they_say;
mod support;
mod user_mode_needs_no_privileges;
