"""Parts of the page about trainings, sweeps and studies."""
