"""What edge and cloud agree on: records, spikes, bundles, codes and packets. numpy only."""
