"""The Merkle tree of RFC 9162, from its text, in Python; it shares no code with the Rust."""

import hashlib


def leaf_hash(agent_id: bytes) -> bytes:
    return hashlib.sha256(b"\x00" + b"writ/audience/v1" + agent_id).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


def split(n: int) -> int:
    """The largest power of two smaller than n."""
    return 1 << ((n - 1).bit_length() - 1)


def tree_hash(ids: list) -> bytes:
    """MTH, section 2.1.1."""
    if len(ids) == 1:
        return leaf_hash(ids[0])
    k = split(len(ids))
    return node_hash(tree_hash(ids[:k]), tree_hash(ids[k:]))


def path(m: int, ids: list) -> list:
    """PATH, section 2.1.3.1."""
    if len(ids) == 1:
        return []
    k = split(len(ids))
    if m < k:
        return path(m, ids[:k]) + [tree_hash(ids[k:])]
    return path(m - k, ids[k:]) + [tree_hash(ids[:k])]


def verify(index: int, size: int, agent_id: bytes, proof: list, root: bytes) -> str:
    """Section 2.1.3.2: "good", "wrong" (another root) or "broken" (no such proof exists)."""
    if index >= size:
        return "broken"
    fn, sn, r = index, size - 1, leaf_hash(agent_id)
    for p in proof:
        if sn == 0:
            return "broken"
        if fn % 2 == 1 or fn == sn:
            r = node_hash(p, r)
            while fn % 2 == 0 and fn != 0:
                fn, sn = fn >> 1, sn >> 1
        else:
            r = node_hash(r, p)
        fn, sn = fn >> 1, sn >> 1
    if sn != 0:
        return "broken"
    return "good" if r == root else "wrong"
