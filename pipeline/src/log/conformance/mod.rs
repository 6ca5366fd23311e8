//! What every log behind the port must do: one suite for Apache Kafka, for the embedded log, and for whoever brings
//! another. The cases speak to the port alone and may run side by side on one log.

mod fixture;
mod groups;
mod member;
mod model;
mod positions;
mod reading;
mod records;
mod topics;
mod transactions;

pub use fixture::Fixture;

use super::Log;

/// One promise of the port.
pub struct Case {
    /// Says what is promised; also a part of the names of the case's topics.
    pub name: &'static str,
    /// Panics, saying what was found, if the log does not keep the promise.
    pub run: fn(&Fixture<'_>),
}

impl Case {
    /// Runs the case on a log, where `unique` begins no other name. Panics if the log breaks the promise.
    pub fn check(&self, log: &dyn Log, unique: &str, seed: u64) {
        (self.run)(&Fixture { log, prefix: format!("{unique}-{}", self.name), seed });
    }
}

macro_rules! cases {
    ($($area:ident::$name:ident,)*) => { &[$(Case { name: stringify!($name), run: $area::$name }),*] };
}

/// The whole suite. Cases that wait for groups come first, as they take longest.
pub const CASES: &[Case] = cases![
    groups::a_static_member_returns_to_its_place,
    groups::a_member_that_has_left_cannot_commit,
    groups::members_share_copartitioned_topics_by_range,
    groups::a_leaving_members_partitions_return,
    groups::a_member_that_has_not_answered_can_leave,
    groups::nothing_is_passed_over_when_members_come_and_go,
    groups::what_stays_with_a_member_is_read_on,
    groups::a_group_is_listed_and_deleted_when_empty,
    groups::one_member_gets_all_partitions,
    groups::a_member_reads_what_it_was_assigned,
    groups::groups_with_unequal_partition_counts_are_refused,
    positions::positions_are_committed_with_their_transaction,
    positions::positions_stay_when_the_transaction_is_aborted,
    positions::positions_are_committed_without_transactions_too,
    positions::positions_are_those_of_their_group,
    model::random_transactions_agree_with_a_model,
    transactions::records_are_seen_once_they_are_committed,
    transactions::aborted_records_are_never_seen,
    transactions::a_transaction_of_a_dropped_producer_is_never_seen,
    transactions::an_open_transaction_holds_back_what_lies_behind_it,
    transactions::a_transaction_is_one_over_partitions_and_topics,
    transactions::ends_told_inside_a_transaction_are_exact,
    transactions::a_commit_without_a_transaction_does_nothing,
    transactions::a_newer_producer_fences_the_older,
    transactions::a_fenced_producer_finds_out_when_it_writes,
    reading::a_fetch_brings_no_more_than_asked_for,
    reading::the_end_is_reported_and_new_records_follow_it,
    reading::the_end_lies_past_what_is_never_delivered,
    reading::reading_begins_at_the_position,
    reading::an_assignment_replaces_the_one_before,
    reading::a_reader_goes_back_and_forth,
    reading::an_offset_is_found_by_its_time,
    records::flush_tells_the_ends_of_tracked_partitions,
    records::keys_and_values_may_be_null_or_empty,
    records::headers_and_timestamps_are_kept,
    records::a_partition_keeps_the_order_of_writing,
    records::a_large_record_goes_through,
    records::a_record_beyond_the_topics_limit_is_refused,
    records::writing_to_what_does_not_exist_names_it,
    records::a_compacted_topic_keeps_the_last_value_of_each_key,
    topics::a_log_has_one_name,
    topics::created_topics_are_listed_by_name,
    topics::an_existing_topic_is_left_as_it_is,
    topics::a_deleted_topic_is_gone_with_its_records,
    topics::deleting_an_unknown_topic_is_no_error,
    topics::an_empty_topic_begins_and_ends_at_zero,
    topics::offsets_come_in_the_order_asked_for,
];
