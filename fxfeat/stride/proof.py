"""x."""
class Proof: pass
def prove_stride(): pass
