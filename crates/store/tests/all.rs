//! What every store promises, and what each promises beyond: one program, since linking one is quicker than linking many.

mod a_full_disk_stops_only_writes;
mod a_killed_writer_loses_nothing;
mod databases_outlive_programs;
mod etcd_conforms;
mod etcd_survives;
mod gateway_conforms;
mod gateway_serves_strangers;
mod gateways;
mod history_is_bounded;
mod secured_etcd;
mod secured_etcd_conforms;
mod snapshots;
mod sqlite_conforms;
