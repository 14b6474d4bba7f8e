//! Where a reader is in a session's events. Pure.
//!
//! | given | cursor | answer |
//! |---|---|---|
//! | an event without an id, or with one that is absurdly far ahead | stays | new |
//! | the next event | moves once the event is dispatched | new |
//! | an event at or before the cursor | stays | repeated |
//! | an event past the next one, for the first time at this cursor | stays | hole: ask again (protocol trap 11) |
//! | the same once more | moves up to the event | after a loss; then it is the next event |
//! | a gap up to an event ahead | moves up to it | lost |
//! | a gap that is none | stays | passed over |
//! | many gaps without an event between them | stays | nonsense |
//! | a malformed event, for the first time at this cursor | stays | ask again |
//! | the same once more | stays | give up |

/// An id further ahead than this is nonsense, not a hole.
const ABSURD: u64 = 1 << 32;
/// So many gaps without an event between them are nonsense too.
const MAX_GAPS: u32 = 8;

/// What an event is to a reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arrival {
    /// It has not been dispatched before.
    New,
    /// It has.
    Repeated,
    /// Events before it are missing: a new connection from the cursor may bring them.
    Hole,
    /// The events before it are lost for good: the cursor is past them, and the event comes next.
    AfterLoss,
}

/// What a gap is to a reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gap {
    /// Events are lost for good, and the cursor is past them.
    Lost,
    /// The next event is still there.
    None,
    /// The server sends one gap after the other.
    Nonsense,
}

/// The reader's place.
#[derive(Debug, Default)]
pub(super) struct Place {
    /// The last event dispatched: a connection goes on after it.
    cursor: u64,
    /// The event that is being dispatched.
    given: Option<u64>,
    hole_at: Option<u64>,
    malformed_at: Option<u64>,
    gaps: u32,
}

impl Place {
    pub fn new(cursor: u64) -> Self {
        Self { cursor, ..Self::default() }
    }

    /// The last event dispatched, or being dispatched.
    pub fn last(&self) -> u64 {
        self.given.unwrap_or(self.cursor)
    }

    /// The event given last has been dispatched; returns the last one that has.
    pub fn settle(&mut self) -> u64 {
        self.cursor = self.given.take().unwrap_or(self.cursor);
        self.cursor
    }

    /// An event has come, with its id in the session if it has one.
    pub fn event(&mut self, id: Option<u64>) -> Arrival {
        let Some(id) = id.filter(|id| id.saturating_sub(self.cursor) < ABSURD) else {
            self.gaps = 0;
            return Arrival::New;
        };
        if id <= self.cursor {
            return Arrival::Repeated;
        }
        if id - self.cursor == 1 {
            self.given = Some(id);
            self.gaps = 0;
            return Arrival::New;
        }
        if self.hole_at != Some(self.cursor) {
            self.hole_at = Some(self.cursor);
            return Arrival::Hole;
        }
        self.cursor = id - 1;
        Arrival::AfterLoss
    }

    /// The server says that its oldest event is this one.
    pub fn gap(&mut self, oldest: u64) -> Gap {
        self.gaps += 1;
        let before = oldest.saturating_sub(1);
        if self.gaps > MAX_GAPS {
            Gap::Nonsense
        } else if before <= self.cursor {
            Gap::None
        } else {
            self.cursor = before;
            Gap::Lost
        }
    }

    /// The event given last is malformed, and has not been dispatched. Returns whether to ask for it again.
    pub fn reject(&mut self) -> bool {
        self.given = None;
        self.malformed_at.replace(self.cursor) != Some(self.cursor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The arrivals of these events, each dispatched at once, and where they lead.
    fn arrivals(cursor: u64, ids: &[Option<u64>]) -> (Vec<Arrival>, u64) {
        let mut place = Place::new(cursor);
        let arrivals = ids.iter().map(|id| {
            let arrival = place.event(*id);
            if arrival == Arrival::AfterLoss {
                assert_eq!(place.event(*id), Arrival::New);
            }
            place.settle();
            arrival
        });
        (arrivals.collect(), place.last())
    }

    #[test]
    fn each_event_is_new_once_and_a_hole_is_asked_for_once() {
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
    fn the_cursor_moves_when_the_event_has_been_dispatched() {
        let mut place = Place::new(0);
        assert_eq!(place.event(Some(1)), Arrival::New);
        assert_eq!((place.cursor, place.last()), (0, 1));
        assert_eq!((place.settle(), place.last()), (1, 1));
        place.event(Some(2));
        assert!(place.reject(), "the first time");
        assert_eq!((place.settle(), place.last()), (1, 1), "it is asked for again");
        place.event(Some(2));
        assert!(!place.reject(), "the second time");
        place.event(Some(2));
        place.settle();
        place.event(Some(3));
        assert!(place.reject(), "another one");
    }

    #[test]
    fn a_gap_leads_on_or_is_passed_over_and_many_are_nonsense() {
        let mut place = Place::new(4);
        for (oldest, gap, cursor) in [(0, Gap::None, 4), (5, Gap::None, 4), (6, Gap::Lost, 5), (9, Gap::Lost, 8)] {
            assert_eq!((place.gap(oldest), place.last()), (gap, cursor), "{oldest}");
        }
        assert_eq!(place.event(Some(9)), Arrival::New, "no hole");
        place.settle();
        for oldest in 2..2 + u64::from(MAX_GAPS) {
            assert_eq!(place.gap(oldest * 10), Gap::Lost, "{oldest}");
        }
        assert_eq!(place.gap(1000), Gap::Nonsense);
    }
}
