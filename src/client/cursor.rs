//! The cursor of an event stream: finds repeated, missing and lost events by their IDs.
//!
//! | input | cursor | result |
//! |---|---|---|
//! | an event without an ID, or with an ID absurdly far ahead | stays | new |
//! | the next event | moves once the event is processed | new |
//! | an event at or before the cursor | stays | repeated |
//! | a later event, for the first time at this cursor | stays | hole: reconnect (protocol trap 11) |
//! | a later event, for the second time at this cursor | moves to before the event | after a loss; then it is the next event |
//! | a gap whose oldest event is a later one | moves to before that event | lost |
//! | any other gap | stays | none |
//! | many gaps without an event between them | stays | nonsense |
//! | a malformed event, for the first time at this cursor | stays | reconnect |
//! | a malformed event, for the second time at this cursor | stays | fail |

/// An ID further ahead than this is invalid, not a hole.
const ABSURD: u64 = 1 << 32;
/// More gaps than this without an event between them are invalid.
const MAX_GAPS: u32 = 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arrival {
    New,
    Repeated,
    /// Events before this one are missing: a new connection from the cursor may bring them.
    Hole,
    /// The server does not have the events before this one. The cursor is past them, and this event comes next.
    AfterLoss,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gap {
    /// The server no longer has the next events. The cursor is past them.
    Lost,
    /// The server still has the next event.
    None,
    /// The server sends one gap after the other.
    Nonsense,
}

#[derive(Debug, Default)]
pub(super) struct Cursor {
    /// The last event that was processed: a connection continues after it.
    processed: u64,
    /// The event that is being processed.
    given: Option<u64>,
    hole_at: Option<u64>,
    malformed_at: Option<u64>,
    gaps: u32,
}

impl Cursor {
    pub fn new(processed: u64) -> Self {
        Self { processed, ..Self::default() }
    }

    /// Returns the last event that was processed or is being processed.
    pub fn last(&self) -> u64 {
        self.given.unwrap_or(self.processed)
    }

    /// Notes that the event has been processed.
    pub fn settle(&mut self) {
        self.processed = self.last();
        self.given = None;
    }

    pub fn event(&mut self, id: Option<u64>) -> Arrival {
        let Some(id) = id.filter(|id| id.saturating_sub(self.processed) < ABSURD) else {
            self.gaps = 0;
            return Arrival::New;
        };
        if id <= self.processed {
            return Arrival::Repeated;
        }
        if id - self.processed == 1 {
            self.given = Some(id);
            self.gaps = 0;
            return Arrival::New;
        }
        if self.hole_at != Some(self.processed) {
            self.hole_at = Some(self.processed);
            return Arrival::Hole;
        }
        self.processed = id - 1;
        Arrival::AfterLoss
    }

    /// Takes the oldest event that the server has.
    pub fn gap(&mut self, oldest: u64) -> Gap {
        self.gaps += 1;
        let before = oldest.saturating_sub(1);
        if self.gaps > MAX_GAPS {
            Gap::Nonsense
        } else if before <= self.processed {
            Gap::None
        } else {
            self.processed = before;
            Gap::Lost
        }
    }

    /// Notes that the event is malformed. Returns whether to reconnect for it.
    pub fn reject(&mut self) -> bool {
        self.given = None;
        self.malformed_at.replace(self.processed) != Some(self.processed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the results of these events, each processed at once, and the cursor.
    fn arrivals(processed: u64, ids: &[Option<u64>]) -> (Vec<Arrival>, u64) {
        let mut cursor = Cursor::new(processed);
        let arrivals = ids.iter().map(|id| {
            let arrival = cursor.event(*id);
            if arrival == Arrival::AfterLoss {
                assert_eq!(cursor.event(*id), Arrival::New);
            }
            cursor.settle();
            arrival
        });
        (arrivals.collect(), cursor.last())
    }

    #[test]
    fn each_event_is_new_once_and_a_hole_reconnects_once() {
        use Arrival::{AfterLoss, Hole, New, Repeated};
        let rows = [
            (0, vec![Some(1), Some(2)], vec![New, New], 2),
            (0, vec![Some(1), Some(1), None, Some(2)], vec![New, Repeated, New, New], 2),
            (5, vec![Some(3), Some(5), Some(6)], vec![Repeated, Repeated, New], 6),
            (0, vec![Some(1), Some(3)], vec![New, Hole], 1),
            (0, vec![Some(1), Some(3), Some(2), Some(3)], vec![New, Hole, New, New], 3),
            (0, vec![Some(1), Some(3), Some(3), Some(4)], vec![New, Hole, AfterLoss, New], 4),
            (0, vec![Some(1), Some(3), Some(3), Some(9)], vec![New, Hole, AfterLoss, Hole], 3),
            (1, vec![Some(ABSURD + 1), Some(2)], vec![New, New], 2),
            (1, vec![Some(ABSURD), Some(ABSURD)], vec![Hole, AfterLoss], ABSURD),
            (u64::MAX - 1, vec![Some(u64::MAX), Some(u64::MAX)], vec![New, Repeated], u64::MAX),
        ];
        for (cursor, ids, expected, last) in rows {
            assert_eq!(arrivals(cursor, &ids), (expected, last), "{cursor} {ids:?}");
        }
    }

    #[test]
    fn the_cursor_moves_when_the_event_is_processed() {
        let mut cursor = Cursor::new(0);
        assert_eq!(cursor.event(Some(1)), Arrival::New);
        assert_eq!((cursor.processed, cursor.last()), (0, 1));
        cursor.settle();
        assert_eq!((cursor.processed, cursor.last()), (1, 1));
        cursor.event(Some(2));
        assert!(cursor.reject(), "the first time");
        cursor.settle();
        assert_eq!((cursor.processed, cursor.last()), (1, 1), "it is asked for again");
        cursor.event(Some(2));
        assert!(!cursor.reject(), "the second time");
        cursor.event(Some(2));
        cursor.settle();
        cursor.event(Some(3));
        assert!(cursor.reject(), "another one");
    }

    #[test]
    fn a_gap_moves_the_cursor_or_is_ignored_and_many_gaps_are_nonsense() {
        let mut cursor = Cursor::new(4);
        for (oldest, gap, last) in [(0, Gap::None, 4), (5, Gap::None, 4), (6, Gap::Lost, 5), (9, Gap::Lost, 8)] {
            assert_eq!((cursor.gap(oldest), cursor.last()), (gap, last), "{oldest}");
        }
        assert_eq!(cursor.event(Some(9)), Arrival::New, "no hole");
        cursor.settle();
        for oldest in 2..2 + u64::from(MAX_GAPS) {
            assert_eq!(cursor.gap(oldest * 10), Gap::Lost, "{oldest}");
        }
        assert_eq!(cursor.gap(1000), Gap::Nonsense);
    }
}
