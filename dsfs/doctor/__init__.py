"""`dsfs doctor`: what decides between well and ill on a cluster, measured, judged, and with its remedy."""
