//! Images and volumes on a real file system: one program, since linking one is quicker than linking many.

mod a_daemon_shows_volumes_while_it_keeps_them;
mod a_full_disk_is_told_and_cleared_up;
mod a_killed_import_leaves_nothing;
mod altered_images_never_surprise;
mod conversion_is_confined;
mod disks_are_merged;
mod images_are_fetched_from_unreliable_servers;
mod images_are_kept_by_what_they_contain;
mod real_qemu_accepts_our_overlays;
mod replicas_are_proven_before_they_are_used;
mod saved_disks_are_clean;
mod saved_disks_hold_nothing_old;
mod volumes_are_shown_by_iscsi;
mod volumes_are_shown_to_one_host;
mod web_server;
