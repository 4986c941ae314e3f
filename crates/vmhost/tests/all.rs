//! Machines, under the controller and under real QEMU: one program, since linking one is quicker than linking many.

mod a_guest_answers;
mod a_killed_controller_adopts_its_machines;
mod a_machine_goes_through_its_states;
mod a_simulated_machine_behaves_like_a_real_one;
mod controller_attaches_and_detaches_volumes;
mod controller_brings_machines_to_what_is_wanted;
mod controller_cloud;
mod controller_survives_being_killed;
mod disks_come_and_go;
mod iscsi_is_used_where_qemu_can;
mod links_are_switched;
mod machines_are_guarded_by_a_guard;
mod machines_are_restarted_whatever_ends_them;
mod machines_give_their_disks;
mod machines_go_to_other_hosts;
mod machines_rest;
mod support;
mod the_accelerator_is_chosen_by_running_a_guest;
mod the_leak_checker_finds_what_is_nobodys;
mod uses_are_written_down_once;
