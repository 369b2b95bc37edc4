from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Hello(_message.Message):
    __slots__ = ("version", "bundle", "session")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    BUNDLE_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    version: int
    bundle: bytes
    session: bytes
    def __init__(self, version: _Optional[int] = ..., bundle: _Optional[bytes] = ..., session: _Optional[bytes] = ...) -> None: ...

class Packet(_message.Message):
    __slots__ = ("sample", "step", "codec", "checksum", "payload", "more")
    SAMPLE_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    CODEC_FIELD_NUMBER: _ClassVar[int]
    CHECKSUM_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    MORE_FIELD_NUMBER: _ClassVar[int]
    sample: int
    step: int
    codec: int
    checksum: int
    payload: bytes
    more: int
    def __init__(self, sample: _Optional[int] = ..., step: _Optional[int] = ..., codec: _Optional[int] = ..., checksum: _Optional[int] = ..., payload: _Optional[bytes] = ..., more: _Optional[int] = ...) -> None: ...

class ToCloud(_message.Message):
    __slots__ = ("hello", "packets", "acked")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    PACKETS_FIELD_NUMBER: _ClassVar[int]
    ACKED_FIELD_NUMBER: _ClassVar[int]
    hello: Hello
    packets: _containers.RepeatedCompositeFieldContainer[Packet]
    acked: int
    def __init__(self, hello: _Optional[_Union[Hello, _Mapping]] = ..., packets: _Optional[_Iterable[_Union[Packet, _Mapping]]] = ..., acked: _Optional[int] = ...) -> None: ...

class ClassifyRequest(_message.Message):
    __slots__ = ("hello", "packet")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    PACKET_FIELD_NUMBER: _ClassVar[int]
    hello: Hello
    packet: Packet
    def __init__(self, hello: _Optional[_Union[Hello, _Mapping]] = ..., packet: _Optional[_Union[Packet, _Mapping]] = ...) -> None: ...

class Welcome(_message.Message):
    __slots__ = ("version", "window")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    WINDOW_FIELD_NUMBER: _ClassVar[int]
    version: int
    window: int
    def __init__(self, version: _Optional[int] = ..., window: _Optional[int] = ...) -> None: ...

class Answer(_message.Message):
    __slots__ = ("sample", "label", "scores", "server_us")
    SAMPLE_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    SCORES_FIELD_NUMBER: _ClassVar[int]
    SERVER_US_FIELD_NUMBER: _ClassVar[int]
    sample: int
    label: int
    scores: _containers.RepeatedScalarFieldContainer[float]
    server_us: int
    def __init__(self, sample: _Optional[int] = ..., label: _Optional[int] = ..., scores: _Optional[_Iterable[float]] = ..., server_us: _Optional[int] = ...) -> None: ...

class Rejected(_message.Message):
    __slots__ = ("sample", "reason")
    SAMPLE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    sample: int
    reason: str
    def __init__(self, sample: _Optional[int] = ..., reason: _Optional[str] = ...) -> None: ...

class ToEdge(_message.Message):
    __slots__ = ("welcome", "answers", "rejected")
    WELCOME_FIELD_NUMBER: _ClassVar[int]
    ANSWERS_FIELD_NUMBER: _ClassVar[int]
    REJECTED_FIELD_NUMBER: _ClassVar[int]
    welcome: Welcome
    answers: _containers.RepeatedCompositeFieldContainer[Answer]
    rejected: _containers.RepeatedCompositeFieldContainer[Rejected]
    def __init__(self, welcome: _Optional[_Union[Welcome, _Mapping]] = ..., answers: _Optional[_Iterable[_Union[Answer, _Mapping]]] = ..., rejected: _Optional[_Iterable[_Union[Rejected, _Mapping]]] = ...) -> None: ...
