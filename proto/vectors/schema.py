"""The messages of writ.v1, from the descriptor set beside this file."""

import pathlib

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

HERE = pathlib.Path(__file__).parent

_pool = descriptor_pool.DescriptorPool()
for _file in descriptor_pb2.FileDescriptorSet.FromString((HERE / "descriptors.binpb").read_bytes()).file:
    _pool.Add(_file)


def message(name: str):
    return message_factory.GetMessageClass(_pool.FindMessageTypeByName("writ.v1." + name))


def canonical(parsed) -> bytes:
    """The bytes we would have written: known fields only, in order."""
    copy = type(parsed)()
    copy.CopyFrom(parsed)
    copy.DiscardUnknownFields()
    return copy.SerializeToString(deterministic=True)
