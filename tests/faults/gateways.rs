//! Runs at random behind gateways that do things at random: see `support/disturbed.rs`.
//!
//! Two hundred of them by default; more by
//!
//! ```sh
//! SORTIE_GATEWAYS=5000 cargo test --test faults gateways
//! ```
//!
//! `SORTIE_SEED` names the first seed; with `SORTIE_GATEWAYS=1` it is the only one.

use crate::seeds;
use crate::support::disturbed;

const AT_A_TIME: usize = 40;

#[test]
fn gateways_at_random_never_make_the_client_state_what_is_not_so() {
    let (first, count) = (seeds::number("SORTIE_SEED", 1000), seeds::number("SORTIE_GATEWAYS", 200));
    seeds::play(first, count, AT_A_TIME, disturbed::play);
}
