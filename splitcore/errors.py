"""Every error a user can meet, as one tree.

    SpikeBottleNetError
    ├── InputError             something the user gave cannot be used
    │   ├── UsageError         a command line option
    │   ├── ConfigError        a training configuration
    │   ├── DataError          images, labels, folders of them
    │   ├── BundleError        a bundle: missing file, changed byte, unknown version
    │   ├── NetxError          a NetX HDF5 file; names the path inside the file
    │   ├── GraphError         an edge network that cannot exist
    │   │   └── OverflowBoundError   one whose integers could leave 24 bits
    │   ├── CodecError         payload bytes that are no spikes
    │   ├── PacketError        a packet that is damaged or foreign
    │   ├── ProfileError       an energy profile or a link
    │   └── ResultError        a result file
    ├── LinkError              the server: not there, refused us, lost samples
    └── SimulationError        the simulator died, hung or was interrupted

The command line turns each of them into one line on stderr and exit code 2.
Messages say what is wrong, where, and what to do about it.
"""


class SpikeBottleNetError(Exception):
    """Root of all errors raised on purpose by this project."""


class InputError(SpikeBottleNetError):
    """Something that the user gave cannot be used."""


class UsageError(InputError):
    """A command line option or argument that makes no sense."""


class ConfigError(InputError):
    """A training configuration with a missing, unknown or impossible field."""


class DataError(InputError):
    """Images or labels that cannot be read or do not fit the model."""


class BundleError(InputError):
    """A bundle with a missing file, a changed byte or an unknown version."""


class NetxError(InputError):
    """A NetX HDF5 file that is damaged or says what we do not support."""


class GraphError(InputError):
    """Records that describe no possible edge network."""


class OverflowBoundError(GraphError):
    """A network whose integer state could leave the chip's 24 bits."""


class CodecError(InputError):
    """Payload bytes that decode to no spike tensor of the declared shape."""


class PacketError(InputError):
    """A packet that is damaged, of another version or of another bundle."""


class ProfileError(InputError):
    """An energy profile or link description with a bad or missing figure."""


class ResultError(InputError):
    """A result file that is damaged or does not fit the others."""


class LinkError(SpikeBottleNetError):
    """The server could not be reached, refused us, or samples were lost."""


class SimulationError(SpikeBottleNetError):
    """The simulator died, hung or was interrupted."""
