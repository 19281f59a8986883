//! Who is next in the enclave, and who in the normal world.

use std::collections::VecDeque;

/// What waits for its turn.
pub(crate) trait Turn {
    /// Whether it has a place inside the enclave, which it gives up only there.
    fn is_open(&self) -> bool;

    /// Whether somebody waits for what comes of it.
    fn is_wanted(&self) -> bool;
}

/// Where it waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum World {
    Normal,
    Secure,
}

/// Two queues. In the normal world the order is that of arrival. In the enclave what is wanted no more goes first, to give up
/// its place; then what has a place; then, as long as there are places, what has none.
pub(crate) struct Schedule<T> {
    normal: VecDeque<T>,
    secure: VecDeque<T>,
    closed: bool,
}

impl<T: Turn> Schedule<T> {
    pub(crate) fn new() -> Self {
        Self { normal: VecDeque::new(), secure: VecDeque::new(), closed: false }
    }

    /// Lets `turn` wait; hands it back when the schedule is closed.
    pub(crate) fn put(&mut self, world: World, turn: T) -> Result<(), T> {
        match world {
            _ if self.closed => return Err(turn),
            World::Normal => self.normal.push_back(turn),
            World::Secure => self.secure.push_back(turn),
        }
        Ok(())
    }

    /// The next one in the normal world.
    pub(crate) fn next_normal(&mut self) -> Option<T> {
        self.normal.pop_front()
    }

    /// The next one in the enclave, which has a place left or not.
    pub(crate) fn next_secure(&mut self, has_room: bool) -> Option<T> {
        let first = |wanted: fn(&T) -> bool| self.secure.iter().position(wanted);
        let next = first(|turn| !turn.is_wanted()).or_else(|| first(T::is_open)).or(has_room.then_some(0));
        self.secure.remove(next?)
    }

    /// Takes out what is wanted no more. What has a place inside goes on waiting for the enclave, the rest is returned.
    pub(crate) fn sweep(&mut self) -> VecDeque<T> {
        let (wanted, unwanted): (VecDeque<T>, VecDeque<T>) = self.normal.drain(..).partition(T::is_wanted);
        self.normal = wanted;
        self.secure.extend(unwanted);
        let (stays, leaves) = self.secure.drain(..).partition(|turn| turn.is_wanted() || turn.is_open());
        self.secure = stays;
        leaves
    }

    /// Ends it and returns all that waited.
    pub(crate) fn close(&mut self) -> Vec<T> {
        self.closed = true;
        self.normal.drain(..).chain(self.secure.drain(..)).collect()
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq)]
    struct Plane {
        name: &'static str,
        open: bool,
        wanted: bool,
    }

    impl Turn for Plane {
        fn is_open(&self) -> bool {
            self.open
        }

        fn is_wanted(&self) -> bool {
            self.wanted
        }
    }

    fn schedule(of: &[(World, &'static str, bool, bool)]) -> Schedule<Plane> {
        let mut schedule = Schedule::new();
        for &(world, name, open, wanted) in of {
            schedule.put(world, Plane { name, open, wanted }).expect("not closed");
        }
        schedule
    }

    fn names(planes: impl IntoIterator<Item = Plane>) -> Vec<&'static str> {
        planes.into_iter().map(|plane| plane.name).collect()
    }

    #[test]
    fn places_are_given_up_before_they_are_used_and_used_before_they_are_given_out() {
        let secure = |name, open, wanted| (World::Secure, name, open, wanted);
        let waiting = [
            secure("new 1", false, true),
            secure("open 1", true, true),
            secure("new 2", false, true),
            secure("left", true, false),
            secure("open 2", true, true),
        ];
        let mut one = schedule(&waiting);
        assert_eq!(
            names(core::iter::from_fn(|| one.next_secure(true))),
            ["left", "open 1", "open 2", "new 1", "new 2"]
        );
        let mut full = schedule(&waiting);
        assert_eq!(names(core::iter::from_fn(|| full.next_secure(false))), ["left", "open 1", "open 2"]);
        assert!(full.next_normal().is_none());
    }

    #[test]
    fn the_normal_world_takes_them_as_they_come() {
        let mut one = schedule(&[(World::Normal, "new", false, true), (World::Normal, "open", true, true)]);
        assert_eq!(names(core::iter::from_fn(|| one.next_normal())), ["new", "open"]);
        assert!(one.next_secure(true).is_none());
    }

    #[test]
    fn what_is_wanted_no_more_leaves_or_gives_up_its_place() {
        let mut one = schedule(&[
            (World::Normal, "stays", false, true),
            (World::Normal, "left", false, false),
            (World::Normal, "left open", true, false),
            (World::Secure, "left too", false, false),
            (World::Secure, "left open too", true, false),
            (World::Secure, "stays too", false, true),
        ]);
        assert_eq!(names(one.sweep()), ["left too", "left"]);
        assert_eq!(names(core::iter::from_fn(|| one.next_normal())), ["stays"]);
        let secure = names(core::iter::from_fn(|| one.next_secure(true)));
        assert_eq!(secure, ["left open too", "left open", "stays too"]);
    }

    #[test]
    fn a_closed_schedule_holds_nothing_and_takes_nothing() {
        let mut one = schedule(&[(World::Normal, "a", false, true), (World::Secure, "b", true, true)]);
        assert!(!one.is_closed());
        assert_eq!(names(one.close()), ["a", "b"]);
        assert!(one.is_closed() && one.next_normal().is_none() && one.next_secure(true).is_none());
        let late = Plane { name: "late", open: false, wanted: true };
        assert_eq!(one.put(World::Secure, late).map_err(|plane| plane.name), Err("late"));
    }
}
