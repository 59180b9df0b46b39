//! The digest of a file, as the list has it.

use std::fs::File;
use std::io::{self, Read as _, Seek as _};

use md5::Md5;
use md5::digest::Digest as _;
use ring::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY, SHA256};
use writ_lists::{Key, Kind};

/// Bytes read at once.
pub(super) const CHUNK: usize = 128 << 10;

/// A digest that is being made.
pub(super) enum Hasher {
    Ring(Context),
    Md5(Md5),
}

impl Hasher {
    /// Of a list of this kind; `None`: its values are no digests of files.
    pub(super) fn of(kind: Kind) -> Option<Self> {
        match kind {
            Kind::Sha256 => Some(Self::Ring(Context::new(&SHA256))),
            // Lists are published with it; what it is worth against collisions is the publisher's affair.
            Kind::Sha1 => Some(Self::Ring(Context::new(&SHA1_FOR_LEGACY_USE_ONLY))),
            Kind::Md5 => Some(Self::Md5(Md5::new())),
            Kind::Domain | Kind::Url | Kind::Ip => None,
        }
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Ring(context) => context.update(bytes),
            Self::Md5(context) => context.update(bytes),
        }
    }

    /// As a list holds it: what is shorter is filled with zeros.
    pub(super) fn finish(self) -> Key {
        let mut key = [0; 32];
        let mut fill = |digest: &[u8]| key[..digest.len()].copy_from_slice(digest);
        match self {
            Self::Ring(context) => fill(context.finish().as_ref()),
            Self::Md5(context) => fill(context.finalize().as_slice()),
        }
        key
    }
}

/// How much is read of a file, and for how long.
#[derive(Clone, Copy)]
pub(super) struct Limit<'a> {
    /// Bytes; a file that has more is not read to its end.
    pub(super) bytes: u64,
    /// Whether reading goes on.
    pub(super) goes_on: &'a dyn Fn() -> bool,
}

/// Reads an open file from its start to its end, within a limit. Whoever writes to a file while it is read
/// could give it no end.
pub(super) fn read(
    file: &mut File,
    limit: Limit<'_>,
    mut chunk: impl FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<u64> {
    file.rewind()?;
    let (mut buffer, mut all) = (vec![0; CHUNK], 0);
    loop {
        let read = match file.read(&mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            read => read?,
        };
        if read == 0 {
            return Ok(all);
        }
        all += u64::try_from(read).unwrap_or(u64::MAX);
        if all > limit.bytes {
            return Err(io::Error::other("it grew while it was read"));
        }
        if !(limit.goes_on)() {
            return Err(io::Error::other("the scan was over before all of it was read"));
        }
        chunk(&buffer[..read])?;
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn digests_are_those_that_the_world_publishes() {
        // FIPS 180-4 and RFC 1321 have these for "abc".
        for (kind, expected) in [
            (Kind::Sha256, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
            (Kind::Sha1, "a9993e364706816aba3e25717850c26c9cd0d89d"),
            (Kind::Md5, "900150983cd24fb0d6963f7d28e17f72"),
        ] {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(b"abc").unwrap();
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(b"abc").unwrap();
            let mut hasher = Hasher::of(kind).unwrap();
            let limit = Limit { bytes: 3, goes_on: &|| true };
            let update = |chunk: &[u8]| {
                hasher.update(chunk);
                Ok(())
            };
            assert_eq!(read(&mut file, limit, update).unwrap(), 3);
            let key = hasher.finish();
            assert_eq!(key, kind.key(expected).unwrap(), "{kind}");
        }
        assert!(Hasher::of(Kind::Url).is_none());
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"abcd").unwrap();
        let grew = read(&mut file, Limit { bytes: 3, goes_on: &|| true }, |_| Ok(())).unwrap_err();
        assert!(grew.to_string().contains("it grew"), "{grew}");
        let over = read(&mut file, Limit { bytes: 9, goes_on: &|| false }, |_| Ok(())).unwrap_err();
        assert!(over.to_string().contains("the scan was over"), "{over}");
    }
}
